"""The model and what moves it: loading, FSDP2 sharding, packing, AdamW, adapters, and gathering of whole weights."""
