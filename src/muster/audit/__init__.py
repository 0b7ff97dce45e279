"""The audit log: what was changed, by whom, in records that hang together, so that nobody changes them unseen."""
