"""The management API in the shape of Azure's resource manager: ``/subscriptions/...`` and ``/providers/...``."""
