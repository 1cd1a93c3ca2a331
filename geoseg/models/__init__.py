"""Models: the card, the contract, and one small adapter per family."""
