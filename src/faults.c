#include "trust.h"

const FaultText fault_texts[FAULT_COUNT] = {
    {NULL, false, NULL},
#define FAULT(name, code, strict, text) {code, strict, text},
#include "faults.h"
#undef FAULT
};
