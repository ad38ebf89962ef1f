"""Training in stages through one loop: the embedded model's, or those of an open model that is retrained.

config.py       what a run needs
batches.py      which samples a step sees, and the prompts it reads
autoencoder.py  stage 1, transforms beside the linear maps
detail.py       stage 1b: a model of what these leave out
few_detail.py   stage 1c: what it draws in many evaluations, in a few
denoiser.py     stage 2, over cached latents
distillation.py stage 3: an adapter that draws in a few steps
classifier.py   stage 4, which judges and screens
contrastive.py  stage 5: images and prompts in one space, over the classifier's features
loop.py         the loop: EMA, validation, logs, checkpoints, signals
optimizer.py    AdamW, with moments of 8 bits where these are there
checkpoint.py   exact state on disk, in hashed shards
machine.py      precision, hours, processors
run.py          the command: config in, MODEL folder out

With a base (see synthcxr.model.bases):

cache.py        rows of arrays in parts, made once by all processes
latents.py      mean and log-variance of each image, cached
wordings.py     what is said of each image, and its cached embeddings
ahead.py        the next batch, made in a thread
base_module.py  what is trained: denoiser, text encoders, adapters
base_stage.py   the stage
base_decoder.py the base's decoder on radiographs, before it
lora.py         adapters to their file, or into the weights
estimate.py     GPU memory, for --dry-run
base_run.py     the command with a base
"""
