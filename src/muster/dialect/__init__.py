"""How Azure spells hub ideas on the wires: topics, property bags, addresses, annotations, bodies."""
