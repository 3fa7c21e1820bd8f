// A library whose thread-local variables are taken off every thread's stack, as those of NVIDIA's
// libraries are.
#include <cstddef>

thread_local char variables[size_t{256} << 10];  // bytes

char* ThreadLocalVariables() { return variables; }
