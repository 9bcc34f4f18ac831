"""What the labels are worth: judged against a truth, and described in the sheet that travels with an export."""
