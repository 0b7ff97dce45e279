"""Zero touch: enrollments, attestation, allocation to hubs, and what became of each device that registered."""
