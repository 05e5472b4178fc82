"""What a trained model is worth: its loss, the likelihood of a data set, its samples.

Every function takes the parameters to be judged (usually the moving average) and covers all examples it is given: the
last batch is padded and masked, never dropped.
"""
