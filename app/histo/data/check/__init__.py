"""What `histo check` looks for, each kind as a finding."""
