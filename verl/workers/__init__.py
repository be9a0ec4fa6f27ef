"""The roles of a run, one per file: what each Ray worker does, and the pools through which the driver uses them."""
