"""Conversion of tables with words and missing values to numbers for a student."""
