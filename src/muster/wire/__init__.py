"""Sans-IO codecs and protocol state: bytes in, events out. No I/O, no clock, no log."""
