"""What the cells of a reference say of those of a query that was mapped into their latent space: labels, and how far to trust them.

It stands on the folders that `reference` and `mapping` leave, and knows no model.
"""
