"""One project in its versions: SIGNALQ_FAULTS_VERSION names the module with the receivers that a process has."""
