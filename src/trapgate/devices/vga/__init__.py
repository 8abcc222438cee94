"""A VGA with the linear frame buffer of Bochs's display interface. Begin with `adapter.py`."""
