"""The network of the TAPNext tracker."""
