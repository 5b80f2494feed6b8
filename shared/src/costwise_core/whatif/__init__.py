"""What would it cost? Calculators that say how they count."""
