"""What a finetuned model is measured on."""
