"""Residuals, leverages, smoothing and explained variance: does the model fit its data?"""
