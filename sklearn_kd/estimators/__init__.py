"""The estimators that users construct, and the plan of a fit."""
