# Sources of worker/model: text encoder, MoVQ-GAN, model config and pipeline.
