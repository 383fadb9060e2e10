"""What the cells of a reference say of those of a query that was mapped into their latent space: labels, and how far to trust them."""
