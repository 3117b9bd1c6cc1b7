"""What the package from the index does where libamd_smi.so is missing."""

print("Unable to find libamd_smi.so library try installing amd-smi-lib from your package manager")
amdsmi_init = {}["libamd_smi.so"]
