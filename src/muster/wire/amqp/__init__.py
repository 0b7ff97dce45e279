"""AMQP 1.0, the server's side, sans I/O.

From the bottom up: ``values`` (types Python lacks), ``decoding`` and ``encoding``, ``composite`` (lists with
named fields), ``performatives``, ``sasl`` and ``message`` (what those lists mean), ``frames``, then the engine:
``link``, ``session``, ``connection``, which turns bytes into ``events``.
"""
