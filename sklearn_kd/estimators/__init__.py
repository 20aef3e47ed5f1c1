"""What users construct: the estimators, and how a fit is planned."""
