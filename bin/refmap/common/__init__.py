"""What every stage uses: commands and their faults, the folders between stages, strategies, storage, a layout of cells. It stands on nothing."""
