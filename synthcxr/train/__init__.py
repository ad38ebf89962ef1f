"""Training in stages: an autoencoder, then a denoiser with its text encoder, through one loop.

config.py       what a run needs
batches.py      which samples a step sees, and the prompts it reads
autoencoder.py  stage 1
denoiser.py     stage 2, over cached latents
classifier.py   stage 3, which judges and screens
contrastive.py  stage 4: images and prompts in one space, over the classifier's features
loop.py         the loop: EMA, validation, logs, checkpoints, signals
checkpoint.py   exact state on disk, in hashed shards
run.py          the command: config in, MODEL folder out
"""
