"""Fine-tuning: conversations about images to batches, batches to a loss, a loss to adapters and gates."""
