"""The search: recipes proposed by Optuna, scored by Ray workers, tracked in MLflow."""
