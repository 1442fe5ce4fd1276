"""The order lifecycle table and the pure order core: events in, commands out."""
