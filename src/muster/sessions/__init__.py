"""Who is connected, on which transport, with which verdict. One model for all heads."""
