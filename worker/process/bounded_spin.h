// Bounds how long idle OpenMP threads spin, in every program that links LibTorch.
//
// libgomp's threads spin for some milliseconds at every barrier before they sleep. Where their
// partner has no processor (several workers on a machine, tests side by side) that time is lost at
// every operation, and the programs crawl. libgomp reads its settings from the environment once,
// while it is loaded, and LibTorch loads it before main: a program can't set them for itself any
// more. So, before any constructor runs, the program executes itself again with GOMP_SPINCOUNT set
// (about 20 ms). Linking kandinsky_torch links this in; there is nothing to call.
//
// Nothing happens where OMP_WAIT_POLICY or GOMP_SPINCOUNT is in the environment (the user's own
// setting wins; that also ends the recursion), in a program with raised privileges (setuid, file
// capabilities: the path might be somebody else's), under an explicitly called loader
// (ld.so PROGRAM), and where the program can't be executed again (a seccomp filter): it then goes
// on as it is. Process number, arguments, open files, signal masks and the working directory stay
// as they are. /proc is not needed. A debugger sees an exec and goes on.
#ifndef KANDINSKY_WORKER_PROCESS_BOUNDED_SPIN_H_
#define KANDINSKY_WORKER_PROCESS_BOUNDED_SPIN_H_

namespace kandinsky {

// Rounds of waiting before a thread sleeps: some microseconds. docs/operations.md has measurements.
inline constexpr char kSpinSetting[] = "GOMP_SPINCOUNT=1000";

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_PROCESS_BOUNDED_SPIN_H_
