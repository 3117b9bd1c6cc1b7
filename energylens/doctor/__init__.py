"""Doctor: what this machine can measure and project, and what is in the way."""

from energylens.doctor.diagnosis import Check, Diagnosis, Section, Verdict, diagnose

__all__ = ["Check", "Diagnosis", "Section", "Verdict", "diagnose"]
