"""FairGRPO: fair advantages for policy optimisation."""
