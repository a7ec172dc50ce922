// Package tests holds what is tested about all packages together: in which
// direction they import each other, and, in the folders t-NN-name, what a whole
// server does.
package tests
