"""The hub measured beside Mosquitto and beside a least server in C. See bench/README.md; `make bench` runs it."""
