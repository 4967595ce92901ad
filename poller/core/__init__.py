"""The deciding part, pure: values in, values out. No I/O, no clock, no chance, no logging."""
