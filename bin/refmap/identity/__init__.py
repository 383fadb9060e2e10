"""What the expression of a query says of its cell types, beside what its place in the latent space says.

Two looks that do not ask the model whether it is right: which of the query's own clusters differ from the reference cells that the
model matched them to by more than the query as a whole does (:mod:`refmap.identity.novel`), and which label the genes would give
(:mod:`refmap.identity.gene_view`). Both need counts of a sample of the reference's cells, its labels, and the latent of either
side, and train nothing. :func:`refmap.identity.compare.compare` is the way in.
"""
