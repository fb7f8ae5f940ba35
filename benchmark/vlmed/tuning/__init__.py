"""Fine-tuning of image and dual encoders on classification: LoRA, the last block, or everything."""
