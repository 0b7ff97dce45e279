"""What the stores on SQL databases share: the device query language compiled to SQL."""
