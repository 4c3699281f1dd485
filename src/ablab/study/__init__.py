"""What is asked: study files, their designs, and the plan of stages they compile to. No torch."""
