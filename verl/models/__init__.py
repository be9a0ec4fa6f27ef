"""The model and what moves it: loading, FSDP2 sharding, padding, AdamW, adapters, and gathering of whole weights."""
