"""The core: values, events, errors and seams. No I/O, no framework; everything here can be written to JSON and read back."""
