"""Evaluation of a trained model: loss, likelihood of a data set, samples.

Every function takes the parameters to evaluate (usually the moving average) and covers all given examples: the last
batch is padded and masked, never dropped.
"""
