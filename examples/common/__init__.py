"""What the examples share: arguments and tables, patient-bootstrap intervals, plots, rendered and real images."""
