"""Fast training of what surgery adds to an SCVI or a SCANVI: the objective of scvi-tools' own training, with less work.

In surgery all but some hundred values are frozen, while scvi-tools trains as if none were. Here a cell's genes go through the frozen
part of the encoder's first layer once (:mod:`.cells`), the likelihood of zeros is computed over dense blocks and corrected at the
counts (:mod:`.likelihood`), no gradient is formed for a frozen weight (:mod:`.layers`), and minibatches are rows of a sparse matrix
(:mod:`.fitting`). What it does not know is done by scvi-tools (:mod:`.limits`).

It takes the model from its file (:mod:`.model`, with the modules of :mod:`.module`), grows its registry by the query's
(:mod:`.registry`), and embeds, predicts, decodes and saves what it has trained (:mod:`.surgery`), so that scvi-tools and what stands
below it need not be imported. Nor may torch's compiler be, which its optimisers import.
"""
