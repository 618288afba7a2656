"""Flows as data: definitions of flows, tasks, deployments and runners, and what turns them into real Prefect flows."""
