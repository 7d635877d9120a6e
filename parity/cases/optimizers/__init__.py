"""One module for each optimizer, named as the module of its class, with its `ENTRY`."""
