-- Names of personal access tokens may be as long as they like here: nothing to change.
SELECT 1;
