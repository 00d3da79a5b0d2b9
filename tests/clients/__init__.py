"""Real SDKs and coding agents against the gateway, in front of simulated providers; `make clients`, see README.md."""
