"""What is deployed: telemetry, features, policy, controller. Needs numpy and msgspec only."""
