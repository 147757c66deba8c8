"""Answers judged by a model behind an OpenAI-compatible endpoint, or by people who do not see whose they are."""
