"""Fast twins of `merge_core.reference`: same bits."""
